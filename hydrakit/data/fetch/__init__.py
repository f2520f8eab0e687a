"""Fetching of public images for `hydrakit datasets get`.

`idc` reads the index of the Imaging Data Commons, a package, and chooses series by it. `store`
downloads their files with s5cmd, checks each by size and digest, and writes manifests for other
machines. `kaggle` fetches archives of Kaggle. `by_hand` names the files that nothing here fetches.
"""
