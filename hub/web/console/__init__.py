"""Show the fleet in a browser: pages made on the server, one style sheet, one script, and questions before anything is changed."""
