"""HiFiC: a mean-scale hyperprior trained with perceptual and adversarial losses."""
