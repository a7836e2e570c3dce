"""The baseline that the paper's network beat: dense descriptors, Fisher vectors, linear classifiers."""
