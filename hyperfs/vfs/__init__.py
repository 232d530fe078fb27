"""The inode layer: a drive as a POSIX file system, in inode terms and without FUSE.

`FileSystem` (`filesystem`) is what an adapter calls. It is put together from operations on names,
files, directories, attributes and extended attributes, all over one `Tree` (`tree`): the drive, the
inodes somebody knows (`inodes`), the open files and directories (`handles`) and how entries are
shown (`attributes`). `rules` is POSIX as pure functions.
"""
