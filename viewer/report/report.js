(() => {
  const canvas = document.getElementById("cloud");
  const data = JSON.parse(document.getElementById("cloud-data").textContent);
  const view = data && cloudView(canvas);
  if (view) {
    view.show(data);
  } else {
    if (data) document.getElementById("cloud-says").textContent = "This browser has no WebGL: open cloud.ply instead.";
    canvas.hidden = true;
  }
})();
