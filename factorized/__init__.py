"""Factorised prior: independent latents with learned densities."""
