"""What uses the files that the workflow makes: to classify pictures, try in a browser, time on phones and boards."""
