import a_heavy_library_that_nobody_has  # noqa: F401


class Heavy:
    pass
