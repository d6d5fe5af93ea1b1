"""Training the first stage: one module or package per recall channel."""
