"""Methods on models that were trained further to see the mask, one file each."""
