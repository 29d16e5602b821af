"""Run the local cluster that `warmhook demo` and `warmhook devcluster` show."""
