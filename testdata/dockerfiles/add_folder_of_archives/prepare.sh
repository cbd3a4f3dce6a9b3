mkdir d && echo in > in && tar --owner=0 --group=0 -cf d/a.tar in && rm in
