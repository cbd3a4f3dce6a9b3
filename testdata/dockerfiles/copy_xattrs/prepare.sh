# A file that has one, where the file system allows it.
echo f > f
setfattr -n user.test -v x f 2>/dev/null || true
