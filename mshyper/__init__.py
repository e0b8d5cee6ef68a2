"""Scale and mean-scale hyperprior: Gaussian latents whose parameters are sent first."""
