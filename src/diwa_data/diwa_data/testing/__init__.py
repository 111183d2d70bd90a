"""Small synthetic recordings for tests and benchmarks; no part of the API."""
