"""Floor 1: eight rooms, each with a narrow door. Imports run base <- storage, access <- catalog <- jobs <- serving <- gateway."""
