"use strict";
// Draws points and lines with WebGL in a canvas; null without WebGL. show: replaces points and path by those of
// viewer/cloud.py. line: adds or replaces a line of that name, of points in the same coordinates, in one colour.
const cloudView = (canvas) => {
  const LARGEST = 0.015; // size of a point at a distance of 1, of few points too
  const STROKE = [[0, 0], [0.7, 0], [0, 0.7], [0.7, 0.7]];
  const gl = canvas.getContext("webgl", { antialias: true });
  if (!gl) return null;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  const shader = (kind, source) => {
    const made = gl.createShader(kind);
    gl.shaderSource(made, source);
    gl.compileShader(made);
    return made;
  };
  const program = gl.createProgram();
  gl.attachShader(program, shader(gl.VERTEX_SHADER, `
    attribute vec3 place; attribute vec3 colour; varying vec3 seen;
    uniform mat4 view; uniform float size; uniform vec2 shift;
    void main() {
      gl_Position = view * vec4(place, 1.0);
      gl_Position.xy += shift * gl_Position.w;
      gl_PointSize = clamp(size / gl_Position.w, 1.0, 24.0);
      seen = colour;
    }`));
  gl.attachShader(program, shader(gl.FRAGMENT_SHADER, `
    precision mediump float; varying vec3 seen;
    void main() { gl_FragColor = vec4(seen, 1.0); }`));
  gl.linkProgram(program);
  gl.useProgram(program);
  const at = (name) => gl.getAttribLocation(program, name);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const buffer = (values) => {
    const made = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    return made;
  };
  let cloud = null;
  const lines = new Map();
  const replace = (old, places, colours) => {
    if (old) [old.place, old.colour].forEach((made) => gl.deleteBuffer(made));
    return { place: buffer(places), colour: buffer(colours), count: places.length / 3 };
  };
  const bind = (name, made) => {
    const kind = name === "place" ? gl.FLOAT : gl.UNSIGNED_BYTE;
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.enableVertexAttribArray(at(name));
    gl.vertexAttribPointer(at(name), 3, kind, true, 0, 0);
  };

  let [yaw, pitch, distance] = [0, 0.55, 1.9];
  const middle = [0, 0, 0];
  const axes = () => {
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    return { right: [cy, 0, -sy], up: [-sy * sp, cp, -cy * sp], back: [sy * cp, sp, cy * cp] };
  };
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const matrix = (aspect) => {
    const { right, up, back } = axes();
    const eye = middle.map((value, axis) => value + distance * back[axis]);
    const [near, far, focal] = [0.01, 50, 1.7 * Math.min(1, aspect)];
    const [a, b] = [(far + near) / (near - far), (2 * far * near) / (near - far)];
    const [tx, ty, tz] = [-dot(right, eye), -dot(up, eye), -dot(back, eye)];
    const rows = [
      [...right.map((value) => (value * focal) / aspect), (tx * focal) / aspect],
      [...up.map((value) => value * focal), ty * focal],
      [...back.map((value) => a * value), a * tz + b],
      [...back.map((value) => -value), -tz],
    ];
    return new Float32Array([0, 1, 2, 3].flatMap((column) => rows.map((row) => row[column])));
  };

  const draw = () => {
    const dense = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * dense;
    canvas.height = canvas.clientHeight * dense;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0.063, 0.07, 0.082, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix4fv(uniform("view"), false, matrix(canvas.width / canvas.height));
    const shown = (mode, drawn) => {
      bind("place", drawn.place);
      bind("colour", drawn.colour);
      gl.drawArrays(mode, 0, drawn.count);
    };
    if (cloud) {
      gl.uniform1f(uniform("size"), Math.min(canvas.width, canvas.height) * Math.min(cloud.spacing, LARGEST));
      shown(gl.POINTS, cloud);
    }
    for (const [right, up] of STROKE) { // WebGL draws lines one pixel wide
      gl.uniform2f(uniform("shift"), (2 * right * dense) / canvas.width, (2 * up * dense) / canvas.height);
      for (const line of lines.values()) shown(gl.LINE_STRIP, line);
    }
    gl.uniform2f(uniform("shift"), 0, 0);
  };
  let asked = false;
  const redraw = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  };
  const turn = (right, up) => {
    yaw -= right;
    pitch = Math.max(-1.5, Math.min(1.5, pitch + up));
    redraw();
  };
  const move = (right, up) => {
    const { right: x, up: y } = axes();
    for (let axis = 0; axis < 3; axis += 1) middle[axis] += distance * (right * x[axis] + up * y[axis]);
    redraw();
  };
  const zoom = (factor) => {
    distance = Math.max(0.05, Math.min(12, distance * factor));
    redraw();
  };

  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [x, y] = [event.clientX - before.clientX, event.clientY - before.clientY];
    const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    if (other) {
      const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
      zoom(apart(before) / Math.max(apart(event), 1));
    } else if (event.shiftKey || event.buttons > 1) {
      move(-x / canvas.clientHeight, y / canvas.clientHeight);
    } else {
      turn(x / 150, y / 150);
    }
    fingers.set(event.pointerId, event);
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(event.deltaY / 600)); },
    { passive: false });
  const keys = { ArrowLeft: () => turn(-0.1, 0), ArrowRight: () => turn(0.1, 0), ArrowUp: () => turn(0, 0.1),
    ArrowDown: () => turn(0, -0.1), "+": () => zoom(0.9), "-": () => zoom(1 / 0.9) };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  new ResizeObserver(redraw).observe(canvas);

  const line = (name, places, colours) => {
    lines.set(name, replace(lines.get(name), new Float32Array(places.flat()), colours));
    redraw();
  };
  return {
    show(data) {
      yaw += data.yaw - (cloud ? cloud.yaw : 0); // what the user has turned stays
      const positions = Float32Array.from(new Uint16Array(bytes(data.positions).buffer), (value) => value / 32767.5 - 1);
      cloud = { ...replace(cloud, positions, bytes(data.colours)), spacing: data.spacing, yaw: data.yaw };
      line("path", data.path, bytes(data.path_colours));
    },
    line: (name, places, colour) => line(name, places, Uint8Array.from(places.flatMap(() => colour))),
  };
};
