"""The world model: RSSM, its data, its training and its open-loop evaluation."""
