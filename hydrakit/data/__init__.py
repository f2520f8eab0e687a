"""From a dataset's files to tensors on a device.

`read` turns files into checked samples, `prepare` into patches stored once on disk, `split` shares
them out by patient, `views` draws augmented views, `load` puts one dataset onto the device.
"""
