"""The mount: the inode layer (`hyperfs.vfs`) behind the kernel's FUSE interface.

`serve.mount` is the coroutine that mounts, serves and unmounts. `operations` translates requests,
`loop` waits for them, `invalidate` tells the kernel what others changed, `mountpoint` looks after
the directory it all hangs on. pyfuse3 keeps its state in module globals, so a process serves one
mount.
"""
