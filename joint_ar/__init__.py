"""Joint autoregressive and hierarchical prior (Minnen et al. 2018)."""
