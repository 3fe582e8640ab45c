"""What is measured, one file a question. Each has `measure(setting) -> Findings` and starts all it needs."""
