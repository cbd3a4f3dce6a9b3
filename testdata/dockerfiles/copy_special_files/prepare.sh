# d/a and d/b are one file, d/p is a fifo, d/s a socket, and d/f is of 2001.
mkdir -p d/sub
echo a > d/a
ln d/a d/b
mkfifo -m 0620 d/p
perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => "d/s", Listen => 1) or die "socket: $!"'
chmod 0644 d/s
echo f > d/f
chmod 4755 d/f
touch -d @1000000000 d/f d/sub d
