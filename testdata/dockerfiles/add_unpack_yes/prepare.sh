echo in > in && tar --mtime=@0 --mode=644 --owner=0 --group=0 -cf a.tar in && rm in
