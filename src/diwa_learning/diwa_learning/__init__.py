"""World model, policies, reward and fine-tuning in imagination (DiWA, arXiv 2508.03645)."""
