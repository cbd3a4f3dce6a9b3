# Has f as a new file, was as a file where there is a folder, and files through links.
mkdir -p t/link t/up/implied
echo up > t/up/implied/f
echo new > t/f
echo file > t/was
echo in > t/link/in
tar -C t --owner=:0 --group=:0 --mtime=@1000000000 -cf t.tar f was link/in up/implied/f
rm -r t
