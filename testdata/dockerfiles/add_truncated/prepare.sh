head -c 5000 /dev/zero > in && tar --owner=0 --group=0 -cf x in && head -c 3000 x > a.tar && rm in x
