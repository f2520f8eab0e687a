"""Data: from a dataset's files to tensors on a device.

`read` turns files into checked samples, `prepared` stores their patches on disk, `quality` checks
them and splits them by patient, `load` loads one dataset onto a device, `augment` draws views.
`padding` treats the pixels outside of a scan. `declared` reads datasets without code, `dicom` and
`volumes` their files, `fetch` downloads them.
"""
