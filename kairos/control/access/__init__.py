"""Who may do what with the admin API: users and roles, how they prove who they are, and what was done."""
