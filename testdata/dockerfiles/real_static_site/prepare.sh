# web/theme.tar.gz is the folder theme.
tar --sort=name --owner=0 --group=0 --mtime=@1000000000 --mode=u=rwX,go=rX -C theme -czf web/theme.tar.gz .
