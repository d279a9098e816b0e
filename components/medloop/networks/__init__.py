"""What architectures are built of where several share it, and what they lose."""
