# The archives of a release: s6-noarch.tar and s6-amd64.tar.xz.
tar --sort=name --owner=0 --group=0 --mtime=@1000000000 --mode=u=rwx,go=rx -C noarch -cf s6-noarch.tar .
tar --sort=name --owner=0 --group=0 --mtime=@1000000000 --mode=u=rwx,go=rx -C amd64 -cJf s6-amd64.tar.xz .
