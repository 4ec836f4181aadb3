"""Files and spectra: how large and how fast shift files, conversions and the spectrum cache are."""
