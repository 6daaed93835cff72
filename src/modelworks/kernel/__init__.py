"""Floor 1: eight rooms with narrow doors; imports run base <- storage, access <- catalog <- jobs <- serving <- gateway."""
