# Makes one archive in all compressions.
mkdir -p t/d
echo f > t/d/f
ln t/d/f t/hard
ln -s d/f t/soft
chmod 0750 t/d
tar -C t --owner=:1 --group=:2 --mtime=@1000000000 --sort=name -cf a.tar .
gzip -nk a.tar && bzip2 -k a.tar && xz -k a.tar && zstd -qk a.tar
rm -r t a.tar
