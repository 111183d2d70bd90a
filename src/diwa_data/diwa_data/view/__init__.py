"""Looking at recordings: cards, contact sheets and Rerun."""
