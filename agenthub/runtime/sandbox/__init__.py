"""What a run may touch: policies, and the mechanisms of the kernel that hold it to them."""
