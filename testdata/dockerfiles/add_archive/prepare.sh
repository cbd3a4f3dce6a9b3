# Makes archives that hold f, owned by 55:66, in several forms.
mkdir t
echo f > t/f
chmod 0640 t/f
touch -d @1000000000 t/f
make_tar() { tar -C t --owner=:55 --group=:66 --format=ustar -cf - f; }
make_tar > t.tar
make_tar | gzip -n > t.tgz
cp t.tgz noext
: > e.tar.gz
rm -r t
