"""What people and other tools read: strings made from values, no file written and no decision taken here."""
