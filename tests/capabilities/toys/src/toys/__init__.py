"""One toy task for each of the four modes: sync, stream, job and static."""
