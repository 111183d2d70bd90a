"""The ensemble whose disagreement says where dreams are guesses."""
