mkdir s && echo in > s/in && chmod 750 s && tar --owner=5 --group=6 -cf a.tar s && echo two > two && tar --owner=0 --group=0 -cf b.tar two && rm -r s two
