-- Drops a dead letter and its picture. ARGV: settings, oracle, letter id. Returns 1 if there was one.
return drop_letter(ARGV[2], ARGV[3])
