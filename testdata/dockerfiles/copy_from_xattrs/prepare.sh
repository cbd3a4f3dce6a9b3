# caps.tar has the file f with cap_net_bind_service=ep, as a header of its own says.
perl -e '
sub header {
	my ($name, $size, $type) = @_;
	my $h = pack("a100 a8 a8 a8 a12 a12 a8 a1 a100 a6 a2 a247", $name, "0000755", "0000000", "0000000", sprintf("%011o", $size), "07346545000", " " x 8, $type, "", "ustar", "00", "");
	my $sum = 0; $sum += ord for split //, $h;
	substr($h, 148, 8) = sprintf("%06o\0 ", $sum);
	return $h;
}
sub padded { return $_[0] . "\0" x (-length($_[0]) % 512) }
my $value = pack("V5", 0x02000001, 1 << 10, 0, 0, 0);
my $record = " SCHILY.xattr.security.capability=" . $value . "\n";
my $n = length($record); $n += length($n + length($n));
my $pax = $n . $record;
print header("pax", length $pax, "x"), padded($pax), header("f", 8, "0"), padded("program\n"), "\0" x 1024;
' > caps.tar
