"""Every number that the paper prints, each with its section.

"The paper" is Krizhevsky, Sutskever and Hinton, *ImageNet Classification with Deep Convolutional Neural
Networks*, NIPS 2012. Where the authors' released code differs, the recipes say so; this page does not.
"""

# §2 The dataset: the shorter side becomes 256 pixels, then the central 256×256 square is cut out.
IMAGE_SIZE = 256

# §4.1 Data augmentation: random 224×224 patches and their reflections.
CROP_SIZE = 224
COLOUR_NOISE = 0.1  # standard deviation of α, drawn once for each use of a picture

# §3.5 Overall architecture (the numbers of kernels are those of the whole net, both towers).
CONVOLUTION_KERNELS = (96, 256, 384, 384, 256)
CONVOLUTION_SIZES = (11, 5, 3, 3, 3)
CONV1_STRIDE = 4
HIDDEN_UNITS = 4096
CLASSES = 1000
TOWERS = 2  # §3.2

# §3.3 Local response normalization: b = a / (k + α Σ a²)^β over n adjacent kernel maps.
LRN_K = 2.0
LRN_SIZE = 5
LRN_ALPHA = 1e-4  # on the sum; torch's LocalResponseNorm divides its alpha by n
LRN_BETA = 0.75

# §3.4 Overlapping pooling.
POOL_SIZE = 3
POOL_STRIDE = 2

# §4.2 Dropout: outputs set to zero with this probability in training, all multiplied by 0.5 at test.
DROPOUT = 0.5

# §5 Details of learning.
BATCH_SIZE = 128
MOMENTUM = 0.9
WEIGHT_DECAY = 0.0005
WEIGHT_SIGMA = 0.01
BIAS = 1.0  # of the layers BIASED; the others start at 0
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")
LEARNING_RATE = 0.01
RATE_DROP = 10.0
RATE_DROPS = 3
EPOCHS = 90

# §6 Results: errors in percent, ten patches averaged (§4.1). Top-1, top-5.
TABLE1 = (("Sparse coding", 47.1, 28.2), ("SIFT + FVs", 45.7, 25.7), ("CNN", 37.5, 17.0))  # ILSVRC-2010, test
TABLE1_CENTRE = (39.0, 18.3)  # of that CNN without averaging: §6, in a footnote
# ILSVRC-2012: top-1 and top-5 on the validation pictures, top-5 on the test pictures, whose labels are not public.
TABLE2 = (
    ("SIFT + FVs", None, None, 26.2),
    ("1 CNN", 40.7, 18.2, None),
    ("5 CNNs", 38.1, 16.4, 16.4),
    ("1 CNN*", 39.0, 16.6, None),
    ("7 CNNs*", 36.7, 15.4, 15.3),
)
TABLE2_NETS = {"1 CNN": (1, 0), "5 CNNs": (5, 0), "1 CNN*": (0, 1), "7 CNNs*": (5, 2)}
"""How many nets of five convolutions and how many of six, CNN*, which "was pre-trained" on Fall 2011."""

# What is lost without each part: points of top-1 and of top-5 error, where the paper prints them, and its words.
# The data set is from the logs of the 2012 code (2010: ILSVRC-2010, test; 2012: ILSVRC-2012, validation; ten
# patches, one run each: layer-params-148.cfg, -147.cfg, -145-half.cfg).
ABLATIONS: dict[str, tuple[float | None, float | None, str]] = {
    "no-lrn": (1.4, 1.2, "2012"),  # §3.3
    "non-overlapping": (0.4, 0.3, "2012"),  # §3.4
    "no-dropout": (None, None, "overfitting"),  # §4.2
    "no-crops": (None, None, "overfitting"),  # §4.1
    "no-colour": (1.0, None, "over"),  # §4.1
    "no-conv1": (None, None, "worse"),  # §7, of any single convolution
    "no-conv2": (2.0, None, "about"),  # §7, of the middle ones
    "no-conv3": (2.0, None, "about"),
    "no-conv4": (2.0, None, "about"),
    "no-conv5": (None, None, "worse"),
    "one-gpu": (1.7, 1.2, "2010"),  # §3.2
}
FIGURE1_ERROR = 25.0  # percent of training error on CIFAR-10, which ReLUs reach so many times sooner than tanh
FIGURE1_TIMES = 6.0  # §3.1
TEST_PICTURES_2010 = 150_000  # §2
VAL_PICTURES_2012 = 50_000
