"""Needs a library that nobody has."""

import a_library_that_nobody_has


def train(run, params):
    a_library_that_nobody_has.train(run, params)


def predict(run, request):
    return a_library_that_nobody_has.predict(request)
