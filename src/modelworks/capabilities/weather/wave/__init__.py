"""Waves at a buoy: records read, heights forecast with intervals, spectra made heights and periods."""
