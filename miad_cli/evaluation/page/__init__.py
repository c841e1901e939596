"""The page that people read: one HTML file that needs nothing but a browser. `document.render`
makes it of findings; template.html, style.css and script.js are what it is made with."""
