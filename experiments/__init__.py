"""Long proofs that are part of the product: the shipped starter's training, the ablation, real speech."""
