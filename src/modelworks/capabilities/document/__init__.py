"""Documents of any form, made passages that say where they stand: the first step of every data space."""
