-- The trainer is through with a group: everything of it goes, whatever state its samples are in.
-- ARGV: settings, group_id
forget(ARGV[2])
