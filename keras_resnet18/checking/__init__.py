"""What would spoil a training: broken images, copies, leaks, odd labels."""
