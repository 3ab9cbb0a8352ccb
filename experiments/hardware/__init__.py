"""What the experiments of hardware share: networks as shapes, published tables."""
