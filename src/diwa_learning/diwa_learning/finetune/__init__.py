"""PPO over the denoising chain, in the world model and in an environment."""
