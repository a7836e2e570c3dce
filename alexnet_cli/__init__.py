"""AlexNet as it was in 2012: preparation, training, evaluation and prediction on one PyTorch engine."""

__version__ = "0.1.0"
